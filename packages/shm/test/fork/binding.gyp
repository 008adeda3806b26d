{
  'includes': ['../../../native/kvx.gypi'],
  'targets': [
    {
      'target_name': 'fork',
      'sources': ['fork.cc'],
    },
    {
      'target_name': 'stream',
      'sources': ['stream.cc'],
    },
    {
      'target_name': 'fakecuda',
      'type': 'shared_library',
      'product_prefix': '',
      'product_extension': 'so',
      'product_dir': '<(PRODUCT_DIR)',
      'sources': [
        '../../../native/test/fake-cuda/driver.cc',
        '../../../native/test/fake-cuda/kernels.cc',
        '../../../native/test/fake-cuda/memory.cc',
        '../../../native/test/fake-cuda/work.cc',
      ],
    },
  ],
}
