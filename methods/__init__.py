"""Methods, one file or folder each; importing one never imports another."""
