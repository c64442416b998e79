"""Of every notebook kernel of this environment; installed as etc/ipython/ipython_kernel_config.py."""

c.IPKernelApp.extensions = ["labkit.kernel_extension"]  # noqa: F821  # c: IPython's configuration
