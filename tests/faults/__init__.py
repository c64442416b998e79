"""The fault campaign: real processes of the lab are hurt at random moments, and an oracle that shares no code with it judges."""
