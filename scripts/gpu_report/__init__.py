"""``make gpu-report``: measures the whole system on one machine, part by part, and writes a page and its JSON."""
