"""What the commands do, each as one function that takes values and leaves a folder."""
