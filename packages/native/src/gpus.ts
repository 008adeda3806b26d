import { addon, type Gpus } from './addon.ts'

/**
 * The GPUs that this process sees. Creates no context on any of them. The first call initializes CUDA, which takes up to half a
 * second, off the JavaScript thread.
 *
 * @throws KvxError `ERR_KVX_BACKEND_UNAVAILABLE` when the addon is not built
 */
export async function gpus(): Promise<Gpus> {
  const { reason, ...found } = await addon().gpus()
  return reason === '' ? found : { reason, ...found }
}
