"""Where subtomograms are cut: the tomograms that positions belong to, and the box of each position."""
