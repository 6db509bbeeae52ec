"""The parts of the CT phantom: shapes, the frame they live in, organs, tissue, vessels, nodules, and the painter."""
