"""The dataset doctor: what is wrong with pictures and labels."""
