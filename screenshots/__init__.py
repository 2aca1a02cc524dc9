"""Pictures of the app, and the script that makes them."""
