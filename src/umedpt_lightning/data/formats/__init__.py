"""Files, tables and labels, as readers find them."""
