"""Results into text: tables and the formats that other tools read."""
