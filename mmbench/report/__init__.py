"""From records to tables: no torch, no data, no device."""
