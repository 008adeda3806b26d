{
  'includes': ['../native/kvx.gypi'],
  'targets': [
    {
      'target_name': 'kvx_mooncake',
      'sources': [
        'native/addon.cc',
        'native/api_c.cc',
        'native/api_cxx.cc',
        'native/driver.cc',
        'native/elf.cc',
        'native/library.cc',
        'native/self_test.cc',
        'native/sockets.cc',
      ],
    },
  ],
}
