"""Files of numbers that may be damaged, hostile or not what they are called."""
