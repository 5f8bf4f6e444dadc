"""What starts work and what tells people: schedules and sensors."""
