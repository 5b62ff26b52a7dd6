"""The search for better settings than the defaults: ``mixfit tune``."""
