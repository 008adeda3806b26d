{
  'includes': ['../../../native/kvx.gypi'],
  'targets': [{'target_name': 'memcpy', 'sources': ['memcpy.cc']}],
}
