"""``zoo:speak``: text to speech, one voice learned from espeak-ng."""
