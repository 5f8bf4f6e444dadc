"""Where day archives are copied to: Google Drive or an object store, encrypted or not."""
