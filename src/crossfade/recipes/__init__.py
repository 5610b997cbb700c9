"""The recipes that come with the package, one YAML each."""
