"""A picture with an English label to text in English, Chinese or German."""
