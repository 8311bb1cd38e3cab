"""Network parts that several methods share. Importing them imports torch, save `frozen`."""
