{
  'includes': ['../../kvx.gypi'],
  'targets': [
    {
      'target_name': 'gpu',
      'type': 'executable',
      'sources': ['main.cc', 'batch.cc', 'bench.cc', 'copier.cc', 'devices.cc', 'digest.cc', 'faults.cc', 'host.cc', 'share.cc', 'writer.cc'],
    },
  ],
}
