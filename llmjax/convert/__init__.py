"""Import published models as run folders, and export runs to other formats."""
