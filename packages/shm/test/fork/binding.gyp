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
  ],
}
