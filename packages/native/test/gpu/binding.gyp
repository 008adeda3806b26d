{
  'includes': ['../../kvx.gypi'],
  'targets': [
    {
      'target_name': 'gpu',
      'type': 'executable',
      'sources': ['main.cc', 'batch.cc', 'bench.cc', 'copier.cc', 'devices.cc', 'digest.cc', 'faults.cc', 'host.cc', 'pieces.cc', 'share.cc', 'writer.cc'],
    },
    {
      'target_name': 'beside',
      'type': 'shared_library',
      'product_prefix': '',
      'product_extension': 'so',
      'product_dir': '<(PRODUCT_DIR)',
      'sources': ['beside.cc'],
      # Python brings a C++ library of its own, which may be older.
      'ldflags': ['-static-libstdc++', '-static-libgcc', '-Wl,--exclude-libs,ALL'],
    },
  ],
}
