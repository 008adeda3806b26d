import { engineConformance } from '@kvx/conformance'

engineConformance('shm', { backend: '@kvx/shm' })
