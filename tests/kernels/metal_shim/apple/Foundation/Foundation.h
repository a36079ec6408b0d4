/* What device.m uses of Foundation, as declarations alone: for a compiler to check the file where Foundation is not. */
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef signed char BOOL;
#define YES ((BOOL)1)
#define NO ((BOOL)0)
#define nil ((id)0)
#define __MAC_15_0 150000

typedef unsigned long NSUInteger;
typedef long NSInteger;

size_t strlcpy(char *to, const char *from, size_t size);

__attribute__((objc_root_class))
@interface NSObject
+ (instancetype)new;
@end

@interface NSString : NSObject
+ (instancetype)stringWithUTF8String:(const char *)text;
@property(readonly) const char *UTF8String;
@end

@interface NSConstantString : NSString
@end

@interface NSError : NSObject
@property(readonly) NSString *localizedDescription;
@end

@interface NSMutableDictionary<Key, Value> : NSObject
- (Value)objectForKeyedSubscript:(Key)key;
- (void)setObject:(Value)value forKeyedSubscript:(Key)key;
@end

void NSLog(NSString *format, ...);
