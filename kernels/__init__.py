"""Pure numerics of subtomogram averaging: arrays in, arrays out, no files and no network."""
