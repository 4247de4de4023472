"""Everything that touches the world: formats, storage, planning, execution and the commands."""
