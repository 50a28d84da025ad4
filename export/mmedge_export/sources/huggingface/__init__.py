"""A checkpoint of transformers: ``hf:FOLDER``, or ``hf:ORG/NAME`` where there is a network."""
