"""Networks: the split residual network for images, six networks for questions about images."""
