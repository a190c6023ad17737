"""One file per noun; a file is imported only when its command is used."""
