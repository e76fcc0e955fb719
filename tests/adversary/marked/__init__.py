"""An app in a package of its own: approvals cover a whole package."""
