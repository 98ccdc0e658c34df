"""What is wrong with a data set: the dataset doctor, which changes nothing."""
