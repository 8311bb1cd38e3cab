"""Results in one file: written, checked, read elsewhere; submissions; runs made again."""
