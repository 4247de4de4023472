"""How the work of a run is carried out."""
