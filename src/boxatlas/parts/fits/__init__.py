"""What is fitted without gradient descent: R-CNN's SVMs and box regressors, and their features."""
