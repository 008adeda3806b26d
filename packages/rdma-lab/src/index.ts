/** Real RDMA verbs on a machine without an RDMA card: a command runs in an emulated guest that has soft-RoCE. */
export { startInLab, type LabOptions, type Run } from './lab.ts'
export { whyNot } from './needs.ts'
