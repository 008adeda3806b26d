{
  'includes': ['../../kvx.gypi'],
  'targets': [
    {
      'target_name': 'parts',
      'type': 'executable',
      'sources': ['main.cc', 'failure.cc', 'outbox.cc', 'shared.cc', 'regions.cc', 'transfers.cc', 'links.cc', 'poller.cc', 'engine.cc', 'digest.cc'],
    },
  ],
}
