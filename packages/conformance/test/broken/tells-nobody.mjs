import { shmWith } from './shm-with.mjs'

export default shmWith(() => ({ onPeerGone: () => undefined }))
