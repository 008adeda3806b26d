{
  'includes': ['../native/kvx.gypi'],
  'targets': [
    {
      'target_name': 'kvx_shm',
      'sources': [
        'native/addon.cc',
        'native/address.cc',
        'native/channel.cc',
        'native/copier.cc',
        'native/door.cc',
        'native/gpus.cc',
        'native/lanes.cc',
        'native/owner.cc',
        'native/shm_driver.cc',
        'native/watch.cc',
      ],
    },
  ],
}
