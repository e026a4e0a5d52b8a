//! The operation model shared by the property, crash and mounted tests.
