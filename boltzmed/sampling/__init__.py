"""What the attention sampled: recorded slice by slice, drawn as pictures and pages."""
