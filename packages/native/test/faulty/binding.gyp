{
  'includes': ['../../kvx.gypi'],
  'targets': [{'target_name': 'faulty', 'sources': ['faulty.cc']}],
}
