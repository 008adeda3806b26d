{
  'includes': ['../native/kvx.gypi'],
  'targets': [
    {
      'target_name': 'kvx_mori',
      'sources': [
        'native/addon.cc',
        'native/driver.cc',
        'native/library.cc',
        'native/network.cc',
        'native/verbs.cc',
      ],
    },
    # Stand-ins for ROCm's libraries, for machines without them. Loaded at run time, never linked; gyp makes the
    # file's name its soname, by which MORI asks for it.
    {
      'target_name': 'stand_in_hip',
      'type': 'shared_library',
      'product_prefix': '',
      'product_name': 'libamdhip64',
      'product_extension': 'so.7',
      'product_dir': '<(PRODUCT_DIR)',
      'sources': ['native/stand-ins/hip.c'],
      'ldflags': ['-Wl,--version-script=<(module_root_dir)/native/stand-ins/hip.map'],
    },
    {
      'target_name': 'stand_in_hsa',
      'type': 'shared_library',
      'product_prefix': '',
      'product_name': 'libhsa-runtime64',
      'product_extension': 'so.1',
      'product_dir': '<(PRODUCT_DIR)',
      'sources': ['native/stand-ins/hsa.c'],
      'ldflags': ['-Wl,--version-script=<(module_root_dir)/native/stand-ins/hsa.map'],
    },
    {
      'target_name': 'stand_in_rocm_smi',
      'type': 'shared_library',
      'product_prefix': '',
      'product_name': 'librocm_smi64',
      'product_extension': 'so.1',
      'product_dir': '<(PRODUCT_DIR)',
      'sources': ['native/stand-ins/rocm_smi.c'],
    },
  ],
}
