"""``slicer.parameterNodeWrapper``: typed parameters kept in a node of the scene and joined to widgets."""
