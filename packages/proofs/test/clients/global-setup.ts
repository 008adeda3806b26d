/** Before any test, without a limit of its time: a first installation takes as long as the network does. */
import { pythonClients } from './support/python.ts'

export default async function setup(): Promise<void> {
  await pythonClients()
}
