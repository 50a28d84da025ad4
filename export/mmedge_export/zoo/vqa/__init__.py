"""Visual question answering by text, by voice, or by both."""
