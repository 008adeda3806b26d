// Stands for lib/native.js in the copy of zeromq.js that @kvx/core carries: loads the build for this platform.
const { existsSync } = require('node:fs')
const { arch, platform } = require('node:process')

const libc = existsSync('/etc/alpine-release') ? 'musl' : 'glibc'
module.exports = require(`../${platform}-${arch}/zeromq.${libc}.node`)
