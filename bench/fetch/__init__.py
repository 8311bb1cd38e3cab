"""How a dataset arrives: download, verification, adding a folder, overview of its sections."""
