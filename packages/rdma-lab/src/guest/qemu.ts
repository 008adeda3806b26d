/** The arguments of QEMU. */
import type { Image } from '../image/build.ts'
import type { Side } from './job.ts'

/** The descriptors that QEMU inherits as the guest's streams, in the order in which it gets them, from 3 on. */
export const streams = ['out', 'err', 'in', 'control'] as const

export interface Machine {
  readonly image: Image
  /** The first file system: the image's files and the job. */
  readonly initramfs: string
  /** Where the guest's kernel writes its log. */
  readonly console: string
  readonly cpus: number
  readonly memoryMiB: number
  readonly writable: readonly string[]
  readonly side: Side | undefined
}

/** In QEMU's options a comma ends a value unless it is doubled. */
const value = (text: string): string => text.replaceAll(',', ',,')

export function qemuArguments(machine: Machine): string[] {
  const { image, side } = machine
  return [
    ...['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none'],
    // Emulated, also where there is KVM: it needs nothing of the machine, and is the same everywhere.
    ...['-machine', 'pc', '-accel', 'tcg,thread=multi'],
    // With ERMS the guest copies memory by "rep movsb", which is emulated byte by byte.
    ...['-cpu', 'max,la57=off,erms=off,fsrm=off'],
    ...['-smp', String(machine.cpus), '-m', String(machine.memoryMiB)],
    ...['-kernel', image.kernel, '-initrd', machine.initramfs],
    '-append',
    'console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on nokaslr',
    ...['-serial', `file:${value(machine.console)}`],
    ...shared('/', 'host', ',readonly=on'),
    ...machine.writable.flatMap((folder, i) => shared(folder, `writable${i}`)),
    ...['-device', 'virtio-serial-pci'],
    ...streams.flatMap((name, i) => [
      ...['-chardev', `socket,id=${name},fd=${i + 3}`],
      ...['-device', `virtserialport,chardev=${name},name=${name}`],
    ]),
    ...(side === undefined ? [] : network(side)),
  ]
}

function shared(folder: string, tag: string, more = ''): string[] {
  return [
    '-virtfs',
    `local,path=${value(folder)},mount_tag=${tag},security_model=none,multidevs=remap${more}`,
  ]
}

/** Packets go as datagrams to the peer's socket. Those that it does not take are lost, as on a network. */
function network({ number, ownSocket, peerSocket }: Side): string[] {
  const ends = `local.type=unix,local.path=${value(ownSocket)},remote.type=unix,remote.path=${value(peerSocket)}`
  return [
    ...['-netdev', `dgram,id=link,${ends}`],
    ...['-device', `virtio-net-pci,netdev=link,host_mtu=9000,mac=52:54:00:00:00:0${number}`],
  ]
}
