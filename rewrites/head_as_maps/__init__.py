"""An FC head carried over to feature maps: FC to convolution, and sliding over larger images."""
