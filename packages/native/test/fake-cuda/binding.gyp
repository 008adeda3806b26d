{
  'includes': ['../../kvx.gypi'],
  'targets': [
    {
      'target_name': 'fakecuda',
      'type': 'shared_library',
      'product_prefix': '',
      'product_extension': 'so',
      'product_dir': '<(PRODUCT_DIR)',
      'sources': ['driver.cc', 'memory.cc', 'kernels.cc', 'work.cc'],
    },
  ],
}
